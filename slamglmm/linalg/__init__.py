"""Dense linear algebra on the ground floor: numbers in, numbers out, no words of the model."""
