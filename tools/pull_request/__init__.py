"""What a pull request changes, read as git objects: its semantic diff, the plan for the GPU runners, their report."""
