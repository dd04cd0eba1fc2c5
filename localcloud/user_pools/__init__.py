"""User pools of Cognito, where moto's let in all who ask: codes, passwords, tokens, sign-in and its end."""
