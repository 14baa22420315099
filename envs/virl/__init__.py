"""V-IRL: follow written directions through a city, in words or in pictures."""
