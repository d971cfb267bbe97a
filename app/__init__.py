"""The page that shows dynamic inference: try an image, move the confidence needed, see which exit answers.

`python -m app` starts it. Importing these modules launches nothing and loads no model.
"""
