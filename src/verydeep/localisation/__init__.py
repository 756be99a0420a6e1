"""Appendix A: localisation. A net predicts boxes; the boxes of many windows are merged and rated."""
