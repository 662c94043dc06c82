"""Write an image set as plain tars, with the index that training maps into memory."""
