"""Sect. 4: the paper's experiments: the plan, its sizes, the steps, the claims, the report."""
