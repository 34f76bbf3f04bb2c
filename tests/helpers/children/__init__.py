"""Programs that tests start in a process of their own, to be killed there or to meet another one."""
