"""Comparisons on a GPU: tuned files side by side (`bench files`), our kernel beside an engine's (`bench kernels`).

| | files | kernels |
| --- | --- | --- |
| what is compared | candidates | sample |
| one run | compare_files | compare_kernels |
| on the GPU | time_files | time_kernels |
| what is written | files_report | kernels_report |

Both share request (the command line), session (the edge) and comparison (compiling, rows, floors). How a row is timed
and checked is `tools.measure`.
"""
