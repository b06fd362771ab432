"""What the workflows ask of GitHub: which pull request a run is for, one comment, one issue, a pull request."""
