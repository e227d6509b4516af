"""What is judged is shown: tables as text, and figures."""
