"""`ixt bench`: how fast models, loaders and kernels run here, and how fast they could.

measure/ times models, a cell per process; data/ times loaders; roofline/ knows what devices allow;
report/ makes tables and pages of results files; doctor/ is `ixt doctor`.
"""
