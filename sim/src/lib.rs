//! A disk that drops, tears, reorders and fails.
