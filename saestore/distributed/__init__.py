"""Writing one set by many processes: a plan, its tasks, and the engines that run them."""
