"""How Pocket Llama is made: corpus, dialogues, tokenizer, training, evaluation.

Not installed with the course. The result of all this is the ordinary Hugging Face folder
`course_utils/pocket_llama/`, which knows nothing of this package.
"""
