"""User pools of Cognito with checks that moto lacks: codes, passwords, tokens, sign-in and sign-out."""
