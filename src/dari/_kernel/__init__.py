"""The kernel: steps tasks, keeps deadlines, cancels. It never waits, and is told everything.

Read in this order: `outcome`, `deadlines`, `lanes`, `world`, `contract`, `operations`, `task`, `scope`, `group`,
`kernel`. Nothing is exported here; floors above import the modules they mean.
"""
