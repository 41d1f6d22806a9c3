"""What a tracer costs: never installed, installed and taken away again, one that does nothing, `dari.TaskTimes`.

    python benchmarks/tracer.py [rounds]

100 tasks that only step aside. Not installed, nothing in the stepping loop knows of tracers; what is compared with
"never installed" is a scheduler that has had one.
"""

from __future__ import annotations

from rounds import medians, rounds_asked, seconds_per_step, show, spinning, versions

import dari

TASKS = 100
SECONDS = 0.05


def with_tracer(tracer: dari.Tracer | None) -> float:
    scheduler = spinning(TASKS)
    scheduler.tracer = tracer
    return seconds_per_step(scheduler, SECONDS)


def taken_away() -> float:
    scheduler = spinning(TASKS)
    scheduler.tracer = dari.Tracer()
    scheduler.run(timeout=0.001)
    scheduler.tracer = None
    return seconds_per_step(scheduler, SECONDS)


def main() -> None:
    rounds = rounds_asked(20)
    print(f"{versions()}; {rounds} interleaved rounds, medians")
    costs = medians(
        {
            "never installed": lambda: seconds_per_step(spinning(TASKS), SECONDS),
            "taken away again": taken_away,
            "a tracer that does nothing": lambda: with_tracer(dari.Tracer()),
            "TaskTimes": lambda: with_tracer(dari.TaskTimes()),
        },
        rounds,
    )
    goals = ["not installed: under 1.02 x the cost of never"]
    show(f"a step, {TASKS} tasks", costs, "ns", 1e9, cost_of=["never installed"], goals=goals)


if __name__ == "__main__":
    main()
