FROM python:3.13-slim

WORKDIR /app
RUN useradd --uid 10001 --no-create-home minivault \
    && install --directory --mode 0700 --owner minivault --group minivault logs

COPY requirements.txt .
RUN pip install --no-cache-dir --root-user-action ignore -r requirements.txt
# a checkout made under umask 077 is for root's eyes only otherwise
COPY --chmod=755 . .

USER minivault
EXPOSE 8000

# a first pull can take hours: until the first success the container is starting, not unhealthy
HEALTHCHECK --start-period=24h --timeout=5s CMD ["python", "-c", \
    "from urllib.request import *; \
    build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/health')"]

ENTRYPOINT ["python", "-m", "deploy.start"]
# the options of `python app.py`, which are uvicorn's
CMD ["--host", "0.0.0.0", "--port", "8000"]
