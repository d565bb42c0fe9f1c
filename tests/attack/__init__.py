"""A standing attack on started servers: ``make attack`` tries what strangers try and prints what fell."""
