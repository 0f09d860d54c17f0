"""What is sent, and when: arrivals, cameras, traces, pictures, scenarios, the plan of a run."""
