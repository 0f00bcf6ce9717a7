"""The site of a report: pages that open by double-click, from a web server or from a bucket, and load nothing from
outside."""
