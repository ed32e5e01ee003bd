"""What a report is made of, and how it becomes HTML and Markdown."""
