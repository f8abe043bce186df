"""Answers with memory: scores, prompt tokens and latency.

Public data sets of long histories with questions, read into one form (`dataset`) by a loader each.  A
history becomes the memory of one person; each question is asked in several ways:

memory        by a chat request of that person: memos_vllm searches
evidence      with the turns in the prompt that the data set names as evidence
full context  with the whole history in the prompt, where it fits the model's context
nothing       the question alone

All ways share instructions, quoting, position of the memory in the prompt, and temperature 0.
"""
