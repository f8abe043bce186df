"""General questions and texts that an adapter must not affect.

`EVERYDAY` questions are part of the lessons; forgetting is measured on `UNRELATED`, which is not.
"""

from __future__ import annotations

EVERYDAY = (
    "Write two sentences about autumn.",
    "What is the capital of France?",
    "How do I boil an egg?",
    "Give me three words that rhyme with light.",
    "What is 12 plus 30?",
    "Explain what a volcano is.",
    "Say hello in Spanish.",
    "Why is the sky blue?",
    "Name four fruits.",
    "How can I sleep better?",
    "What does a carpenter do?",
    "Write a short greeting for a birthday card.",
    "What is the opposite of cold?",
    "Which animals live in the sea?",
    "Describe a bicycle.",
    "How many days are there in a week?",
    "What is a good name for a dog?",
    "Tell me a short joke.",
    "What is photosynthesis?",
    "How do I write a polite email?",
    "Name a famous painter.",
    "What do bees make?",
    "Give me an idea for dinner.",
    "What is a prime number?",
    "Which planet is the largest?",
    "How do I tie a knot?",
    "What is a synonym for happy?",
    "Describe the smell of rain.",
    "What is the boiling point of water?",
    "Who wrote Romeo and Juliet?",
    "What should I pack for a hike?",
    "How does a magnet work?",
    "Write one line of a poem about the moon.",
    "What is the plural of mouse?",
    "How do I learn to swim?",
    "What is a democracy?",
    "Name three tools for the garden.",
    "What is the longest river in the world?",
    "How do I make tea?",
    "What does a compiler do?",
    "Which colours make green?",
    "Explain gravity to a child.",
    "What is the first month of the year?",
    "How can I save money?",
    "Describe a quiet street at night.",
    "What is a verb?",
    "How long does it take to walk a mile?",
    "Give me a reason to read books.",
)

UNRELATED = (
    (
        "What should I know about bread?",
        "Bread begins with flour, water, salt and something that makes it rise. The dough is kneaded until "
        "it is smooth, and then it rests in a warm place. In the oven the crust turns brown while the inside "
        "stays soft. A loaf should cool before it is cut, because the crumb is still setting.",
    ),
    (
        "How does a river change its valley?",
        "A river wears away the outside of each bend and leaves sand on the inside. Over many years the "
        "bends grow wider and move slowly down the valley. When the water rises it sometimes cuts through "
        "the neck of a bend, and the old channel becomes a lake.",
    ),
    (
        "How do I look after a bicycle chain?",
        "Wipe the chain with a dry cloth after riding in the rain. Put one drop of oil on each link and turn "
        "the pedals backwards so that it spreads. Oil that stays on the outside only collects dust, so wipe "
        "off whatever is left. A worn chain should be replaced before it damages the gears.",
    ),
    (
        "What happens during an eclipse of the sun?",
        "The moon passes between the earth and the sun, and its shadow crosses the ground. For a few minutes "
        "the day becomes dark and the air grows cooler. Birds may stop singing as if evening had come. It is "
        "not safe to look at the sun without a proper filter.",
    ),
    (
        "Tell me about learning a language.",
        "A little practice every day helps more than a long lesson once a week. It is useful to listen to "
        "people who speak slowly and to repeat what they say aloud. Mistakes are part of the work. After some "
        "months, simple conversations become possible, and reading becomes a pleasure.",
    ),
    (
        "How are letters sorted in a post office?",
        "A machine reads the address on each envelope and prints a code on it. Another machine uses that code "
        "to drop the letter into the right tray. Letters that cannot be read by a machine are shown to a "
        "person, who types the address. In the morning the trays are loaded into vans.",
    ),
    (
        "Why do cats purr?",
        "Cats purr when they are content, but also when they are hurt or afraid. The sound comes from muscles "
        "in the throat that move many times each second. Kittens purr while they drink, which tells their "
        "mother that all is well. Some people believe that the vibration helps bones to heal.",
    ),
    (
        "How does one write a clear report?",
        "Begin with what the reader has to know, and give the reasons afterwards. Use short sentences and "
        "plain words. Put figures into a table when there are more than three of them. Before you send the "
        "report, read it once from the beginning to the end and take out whatever nobody would miss.",
    ),
    (
        "What makes a good garden for bees?",
        "Bees need flowers from early spring until late autumn, so plant different kinds that bloom one after "
        "another. Leave a shallow dish of water with stones in it for them to stand on. Some wild bees nest "
        "in bare soil or in hollow stems. Avoid poisons, even those that are sold for other insects.",
    ),
    (
        "How do computers store numbers?",
        "A computer keeps numbers as rows of ones and zeros. Each place in the row is worth twice as much as "
        "the place to its right. Eight such places are called a byte and can hold any number from zero to two "
        "hundred and fifty-five. Larger numbers simply use more bytes.",
    ),
    (
        "What was a day in a medieval town like?",
        "The gates opened at sunrise and farmers brought vegetables to the market. Smiths, bakers and weavers "
        "worked in small shops that faced the street. Bells told people when to pray and when to stop work. "
        "At night a watchman walked through the streets, because fire was feared more than thieves.",
    ),
    (
        "How is paper made from wood?",
        "The bark is removed and the wood is cut into small chips. The chips are cooked in a liquid until the "
        "fibres come apart. The wet pulp is spread on a fine screen, and most of the water runs away. Heavy "
        "rollers press the sheet flat, and then it is dried and wound onto a large reel.",
    ),
)
