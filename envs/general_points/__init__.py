"""GeneralPoints: reach 24 with the numbers of four cards, in words or in a picture."""
