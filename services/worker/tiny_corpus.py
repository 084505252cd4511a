"""Text on which the tiny model's tokenizer is trained: what agents say, call and read back."""

_WORDS = """
the a of to in and is it that for on with as was this be are from or by not have an at which you we they can will
all would there their what so if about who get go when make like time just know take people into year your good some
could them see other than then now look only come its over think also back after use two how our work first well way
even new want because any these give day most us plan search result file line code test error value name list query
tool call agent step task answer question search web page open read write run edit patch build check fix deploy
review draft note section topic summary report source data table column row index key user message system assistant
model token prompt context cache memory worker queue program branch join merge commit change function class method
return import print string number object array true false null path directory command output input option setting
request response server client status code id type start end next previous last left right total count size limit
budget cost price hotel flight city weather temperature celsius date today tomorrow morning evening book order
python module package version update install remove create delete add find replace match pattern compare sort filter
"""
WORDS = _WORDS.split()

SENTENCES = """
You are a helpful assistant that plans work, calls tools and reports what was found.
I will search the web for the latest results and then open the first page.
The test fails because the function returns None when the list is empty; let me fix the import and run the tests again.
Step 1: read the file. Step 2: write the patch. Step 3: run the tests. Step 4: report the result.
Thought: I need more data before I can answer the question. Action: call the search tool with a better query.
Observation: the server answered with status 404, so the path must be wrong. Let me check the directory.
The reviewer asks for a shorter summary, with sources, before the end of the day.
Here is the plan: first gather facts, then compare options, then write the report.
What is the weather in Paris today? It is 18 degrees celsius and sunny, with a light wind from the west.
I agree with the other agent on cost, but I disagree on risk; the budget leaves no room for delay.
def main(): return sum(value for value in values if value is not None)
# Tools You may call one or more functions to assist with the user query.
You are provided with function signatures within tags. For each function call, return a json object with function name
and arguments within tags. Please answer in json. The final answer is 42.
""".strip().splitlines()

JSON = """
{"name": "search", "arguments": {"query": "prefix cache", "limit": 5}}
{"name": "read_file", "arguments": {"path": "src/main.py", "start": 1, "end": 80}}
{"name": "run_tests", "arguments": {"pattern": "test_*.py", "verbose": true}}
{"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters":
{"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius"]}},
"required": ["city"]}}}
[{"name": "search", "parameters": {"query": "x"}}, {"name": "open", "parameters": {"url": "y"}}]
{"ok": true, "rows": [[1, 2], [3, 4]], "error": null, "items": [], "total": 0}
""".strip().splitlines()


def lines() -> list[str]:
    """The corpus, words weighted so that many whole words become tokens."""
    return [*(f" {word}" for word in WORDS * 8), *SENTENCES, *JSON * 2]
