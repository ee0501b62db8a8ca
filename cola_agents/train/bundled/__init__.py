"""The recipe of the bundled models: their corpus, tokenizer and stages."""
