"""What evaluate.py does beyond scoring and predicting: grading submissions, and making the report anew."""
