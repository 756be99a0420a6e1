"""Appendix A: Tables 8, 9 and 10 as an experiment."""
