"""What is known of chats and of the account's contact cards."""
