"""What must go on by itself: jobs, deployments, computes and endpoints brought in line with what clusters report and with the time."""
