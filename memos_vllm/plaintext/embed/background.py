"""Background of an embedder: the cosines of a question with texts that have nothing to do with it.

Models spread their cosines differently: unrelated texts have about 0.05 in MiniLM, 0.6 in granite, 0.75 in
E5, and some questions are closer to everything than others.  What a cosine means is how far it stands above
that.
"""

from __future__ import annotations

import numpy as np

from memos_vllm.plaintext.embed.model import Background, Vectors

UNRELATED = (
    "I went to the supermarket this morning.",
    "My brother is learning to play the guitar.",
    "The meeting was moved to Thursday afternoon.",
    "We watched a film about space last night.",
    "Could you write an email to my landlord?",
    "The train to the city takes about forty minutes.",
    "I have been feeling tired since the holidays.",
    "She bought a new bicycle for her daughter.",
    "Here are some ideas for a healthy breakfast.",
    "The library closes at six on weekdays.",
    "My favourite season is autumn.",
    "He repaired the roof after the storm.",
    "How do I sort a list in Python?",
    "They are planning a trip to the mountains.",
    "The soup needs more salt and a little lemon.",
    "I prefer to work early in the day.",
    "Our neighbours have three cats and a parrot.",
    "The bank changed its opening hours.",
    "Let me know if you need anything else.",
    "I finished reading the novel on the plane.",
    "The doctor told me to drink more water.",
    "We painted the living room light blue.",
    "What is the difference between a virus and a bacterium?",
    "The company announced its results for the quarter.",
    "I lost my keys somewhere in the park.",
    "The children built a castle out of sand.",
    "You could start with a short walk every evening.",
    "My laptop takes a long time to start.",
    "The concert was cancelled because of the rain.",
    "I am saving money for a house.",
    "Please translate this sentence into French.",
    "The garden looks beautiful in spring.",
    "He has worked as a nurse for ten years.",
    "A good night's sleep improves memory and mood.",
    "I don't like crowded places.",
    "The bridge was built in the nineteenth century.",
    "We are having dinner with friends on Saturday.",
    "Her exam is next week and she is nervous.",
    "Photosynthesis turns light into chemical energy.",
    "I forgot to pay the electricity bill.",
    "The museum has a new exhibition of photographs.",
    "Can you recommend a book about history?",
    "My grandmother taught me how to bake bread.",
    "The football team won its first match of the season.",
    "He switched to another phone provider.",
    "Make sure the screws are tight before you use it.",
    "I dreamed about the sea last night.",
    "The recipe serves four people.",
    "Traffic was terrible on the way to work.",
    "We adopted a dog from the shelter.",
    "The printer is out of paper again.",
    "I would like to learn how to swim.",
    "Unemployment fell slightly in the last year.",
    "She wears glasses when she drives.",
    "There are several ways to solve this problem.",
    "The shop sells handmade furniture.",
    "I usually take the bus to school.",
    "The weather will be sunny tomorrow.",
    "He is allergic to dust.",
    "Thank you, that was very helpful.",
    "The contract runs for two years.",
    "My cousin moved abroad last summer.",
    "I need a gift for my colleague's birthday.",
    "The plane landed an hour late.",
)


def background_of(vector: Vectors, unrelated: Vectors) -> Background:
    """Cosines of a question with unrelated texts.

    Args:
        vector: (dim,), of length 1.
        unrelated: (num_texts, dim) of `UNRELATED`, rows of length 1.
    """
    cosines = unrelated @ vector
    return Background(max(0.0, float(cosines.mean())), float(cosines.std()))


def above(cosines: Vectors, usual: float) -> Vectors:
    """Cosines on a scale on which unrelated texts have 0 and equal texts 1; NaN stays."""
    scaled: Vectors = ((cosines - usual) / (1.0 - usual)).astype(np.float32)
    return scaled
