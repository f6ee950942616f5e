"""What `trainer` tells the shell, beside 0 for done."""

FAILED = 1  # the run went badly, or the check found something
USER_ERROR = 2  # something given was wrong; nothing was begun
FLEET_CHANGES = 75  # go on with another number of workers: "start me again" (EX_TEMPFAIL of sysexits.h)
STOPPED = 85  # SIGTERM or Ctrl-C, and all is saved: "start me again" (HTCondor's usual code for that)
INTERRUPTED = 130  # Ctrl-C or SIGTERM where there was nothing to save, as shells count it
