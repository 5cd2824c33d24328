FROM python:3.13-slim

# requirements-cluster.txt for what reads the log of many pods
ARG REQUIREMENTS=requirements.txt
LABEL org.opencontainers.image.title="MiniVault" \
    org.opencontainers.image.version="0.9.0" \
    org.opencontainers.image.description="A local LLM's answers, every one of them kept in a log"

WORKDIR /app
RUN useradd --uid 10001 --no-create-home minivault \
    && install --directory --mode 0700 --owner minivault --group minivault logs

COPY requirements.txt requirements-cluster.txt ./
RUN pip install --no-cache-dir --root-user-action ignore -r ${REQUIREMENTS}
# a checkout made under umask 077 is for root's eyes only otherwise
COPY --chmod=755 . .

USER minivault
EXPOSE 8000

# a first pull can take hours: until the first success the container is starting, not unhealthy
HEALTHCHECK --interval=5s --start-period=24h --timeout=6s CMD ["python", "-c", \
    "from urllib.request import *; \
    build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/ready')"]

ENTRYPOINT ["python", "-m", "deploy.start"]
# the options of `python app.py`, which are uvicorn's
CMD ["--host", "0.0.0.0", "--port", "8000"]
