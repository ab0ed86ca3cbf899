"""What the stock kubectl prints, case by case: recorded from a real cluster, demanded of the embedded one."""
