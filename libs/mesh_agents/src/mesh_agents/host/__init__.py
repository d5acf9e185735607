"""The host: agents as child processes, placed by auction, watched by beats."""
