"""Entry point of the executable."""

from appliance.cli.main import main

if __name__ == "__main__":
    main()
