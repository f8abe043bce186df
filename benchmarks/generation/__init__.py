"""Answers with memory: is what a model says better for what it remembers, and what does that cost?

Public data sets of long histories with questions about them, brought into one shape (`dataset`) by a
loader each.  A history becomes the memory of one person; each question is then asked several ways:

memory        by a chat request in that person's name, with nothing else: what our system finds
evidence      with the turns in the prompt that the data set names as evidence: the best retrieval
full context  with the whole history in the prompt, where the model's context holds it
nothing       the question alone

All ways have the same instructions, the same quoting and place of what is remembered, temperature 0.
"""
