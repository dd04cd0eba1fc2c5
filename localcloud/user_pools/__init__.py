"""User pools of Cognito, where moto's let in whoever asks: codes, passwords, tokens, sign-in and its end."""
