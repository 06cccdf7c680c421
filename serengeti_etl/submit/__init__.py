"""A trained model as others take it: a submission that runs elsewhere, a plain folder."""
