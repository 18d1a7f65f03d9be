"""What a study is: its file, its settings, its results."""
