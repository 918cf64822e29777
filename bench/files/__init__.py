"""Where the suite touches the disk: how a file is opened, how a record is written, what lies in a results folder, who holds a run."""
