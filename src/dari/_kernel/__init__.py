"""The kernel: steps tasks, keeps deadlines, cancels. It never waits, and is told everything.

Read in this order: `outcome`, `deadlines`, `lanes`, `world`, `contract`, `scope`, `waiting`, `joining`, `task`,
`operations`, `combine`, `group`, `yielded`, `penance`, `leftovers`, `kernel`; `forgotten` is debug mode. Nothing is
exported here; floors above import the modules they mean.
"""
