"""What is said over the API, in one place: requests, forms, answers, samples of every error, the OpenAPI document.

In come JSON values and records of jobs, out go checked requests and views. Nothing here waits for anything.
"""
