"""Side inputs of a model, beside its events and labels: feedback, runs of jobs, business outcomes."""
