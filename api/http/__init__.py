"""HTTP layer: middleware, authentication, body limits, media types, playground."""
