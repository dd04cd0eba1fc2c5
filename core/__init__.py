"""The domain that both tiers share: configuration, messages, jobs, images, the fleet, and sandboxed decoding."""
