"""Create the bucket of SAEFLOW_HOME in an S3 store that answers at AWS_ENDPOINT_URL, unless it is there.

obstore, which saeflow reads and writes objects with, has no call for this; it can sign one.
"""

import os
import sys
import urllib.error
import urllib.request
from datetime import timedelta
from urllib.parse import urlsplit

import obstore
from obstore.store import S3Store


def create_bucket(home: str, endpoint: str) -> str:
    """The bucket's name. Raises urllib.error.HTTPError when the store refuses."""
    bucket = urlsplit(home).netloc
    store = S3Store(
        bucket,
        endpoint=endpoint,
        virtual_hosted_style_request=False,
        client_options={"allow_http": endpoint.startswith("http://")},
    )
    url = obstore.sign(store, "PUT", "", expires_in=timedelta(minutes=1))
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is there
            raise
    return bucket


if __name__ == "__main__":
    try:
        print(create_bucket(os.environ["SAEFLOW_HOME"], os.environ["AWS_ENDPOINT_URL"]))
    except urllib.error.HTTPError as error:
        sys.exit(f"the bucket cannot be created: {error} {error.read().decode(errors='replace')}")
