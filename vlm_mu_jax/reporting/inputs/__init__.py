"""What a report reads: run folders, the files of other commands, the papers' tables, the images of the data."""
