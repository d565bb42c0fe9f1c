"""An attack on running servers: ``make attack`` tries what outsiders might try and prints what failed."""
