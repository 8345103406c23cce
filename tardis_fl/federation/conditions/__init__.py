"""What real fleets are like: availability, time, faults, privacy."""
