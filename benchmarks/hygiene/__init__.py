"""What memory makes of a thousand turns of ordinary talk, jokes and attacks."""
