"""What a procedural city is: its street graph, its landmarks, its style."""
