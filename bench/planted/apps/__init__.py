"""Small applications as users write them; correct as they stand here, wrong once a bug is planted."""
