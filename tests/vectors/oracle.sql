-- all columns
SELECT "HIS"."VISITS".*, "ID" AS "consilium unique id" FROM "HIS"."VISITS"

-- named columns
SELECT "AGE", "SEX", "ID" AS "consilium unique id" FROM "HIS"."VISITS"

-- listed columns
SELECT "Creatinine", "odd]name", "Patient" AS "consilium unique id" FROM "HIS"."Lab results"

-- numbers
SELECT "AGE", "ID" AS "consilium unique id" FROM "HIS"."VISITS" WHERE ((("AGE" >= -1.5e2) AND ("AGE" < 0.5)) OR (NOT ("AGE" <> 3)))

-- truth
SELECT "AGE", "ID" AS "consilium unique id" FROM "HIS"."VISITS" WHERE ("ALIVE" = 1)

-- a text
SELECT "AGE", "ID" AS "consilium unique id" FROM "HIS"."VISITS" WHERE ("SEX" = 'O''Brien 50%')

-- a text beyond ASCII
SELECT "AGE", "ID" AS "consilium unique id" FROM "HIS"."VISITS" WHERE (("WARD" = UNISTR('\82CF\5DDE \D842\DFB7')) AND ("SEX" <> UNISTR('\5973')))

-- patterns
SELECT "AGE", "ID" AS "consilium unique id" FROM "HIS"."VISITS" WHERE (("WARD" LIKE 'A[1-3]_%') AND (NOT ("SEX" LIKE 'f%')))

-- a list
SELECT "AGE", "ID" AS "consilium unique id" FROM "HIS"."VISITS" WHERE (("WARD" IN ('a', 'b')) AND (NOT ("AGE" IN (1, 2))))

-- between
SELECT "AGE", "ID" AS "consilium unique id" FROM "HIS"."VISITS" WHERE (("AGE" BETWEEN 1 AND 2) AND (NOT ("AGE" BETWEEN 3 AND 4)))

-- null
SELECT "AGE", "ID" AS "consilium unique id" FROM "HIS"."VISITS" WHERE (("AGE" IS NULL) OR (NOT ("SEX" IS NULL)))

-- a day
SELECT "AGE", "ID" AS "consilium unique id" FROM "HIS"."VISITS" WHERE ("SEEN" >= DATE '2024-05-06')

-- moments
SELECT "AGE", "ID" AS "consilium unique id" FROM "HIS"."VISITS" WHERE ((("SEEN" < TIMESTAMP '2024-05-06 07:08:00') AND ("SEEN" > TIMESTAMP '2024-05-06 00:00:00')) AND ("SEEN" <> TIMESTAMP '2024-05-06 07:08:09.125'))

-- own: with, join, window
WITH a AS (SELECT id, age - AVG(age) OVER (PARTITION BY sex) AS z FROM "HIS"."VISITS") SELECT a.z, a.z, COALESCE(v.age, 0) FROM a JOIN "HIS"."VISITS" v ON a.id = v.id WHERE v.ward = N'苏州' ORDER BY 1

-- own: with, join, window, as it is read
WITH a AS (SELECT id, age - AVG(age) OVER (PARTITION BY sex) AS z FROM "HIS"."VISITS") 
, consilium_rows (c0, c1, c2) AS (
SELECT a.z, a.z, COALESCE(v.age, 0) FROM a JOIN "HIS"."VISITS" v ON a.id = v.id WHERE v.ward = N'苏州' ORDER BY 1
) SELECT c0 AS c0, c1 AS c1, c2 AS c2 FROM consilium_rows WHERE ROWNUM <= 1001

-- own: the first rows
SELECT age FROM "HIS"."VISITS" ORDER BY age FETCH FIRST 5 ROWS ONLY

-- own: the first rows, as it is read
WITH consilium_rows (c0) AS (
SELECT age FROM "HIS"."VISITS" ORDER BY age FETCH FIRST 5 ROWS ONLY
) SELECT c0 AS c0 FROM consilium_rows WHERE ROWNUM <= 1001

-- own: groups
SELECT sex, COUNT(DISTINCT id), AVG(age) FROM "HIS"."VISITS" GROUP BY sex HAVING COUNT(*) > 3

-- own: groups, as it is read
WITH consilium_rows (c0, c1, c2) AS (
SELECT sex, COUNT(DISTINCT id), AVG(age) FROM "HIS"."VISITS" GROUP BY sex HAVING COUNT(*) > 3
) SELECT c0 AS c0, c1 AS c1, c2 AS c2 FROM consilium_rows WHERE ROWNUM <= 1001

-- own: functions
SELECT CASE WHEN age > 65 THEN 1 ELSE 0 END, LOWER(sex), SUBSTR(ward, 1, 2), LENGTH(ward), CAST(age AS NUMBER(8, 2)), CAST(ward AS VARCHAR2(9)), EXTRACT(YEAR FROM seen), SQRT(age), sex || ward FROM "HIS"."VISITS"

-- own: functions, as it is read
WITH consilium_rows (c0, c1, c2, c3, c4, c5, c6, c7, c8) AS (
SELECT CASE WHEN age > 65 THEN 1 ELSE 0 END, LOWER(sex), SUBSTR(ward, 1, 2), LENGTH(ward), CAST(age AS NUMBER(8, 2)), CAST(ward AS VARCHAR2(9)), EXTRACT(YEAR FROM seen), SQRT(age), sex || ward FROM "HIS"."VISITS"
) SELECT c0 AS c0, c1 AS c1, c2 AS c2, c3 AS c3, c4 AS c4, c5 AS c5, c6 AS c6, c7 AS c7, c8 AS c8 FROM consilium_rows WHERE ROWNUM <= 1001

-- own: union
SELECT age FROM "HIS"."VISITS" UNION ALL SELECT age FROM "HIS"."VISITS" ORDER BY 1

-- own: union, as it is read
WITH consilium_rows (c0) AS (
SELECT age FROM "HIS"."VISITS" UNION ALL SELECT age FROM "HIS"."VISITS" ORDER BY 1
) SELECT c0 AS c0 FROM consilium_rows WHERE ROWNUM <= 1001

-- every type, as it is read
WITH consilium_rows (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17) AS (
SELECT "HIS"."VISITS".*, "ID" AS "consilium unique id" FROM "HIS"."VISITS"
) SELECT TO_CHAR(c0, 'TM9', 'NLS_NUMERIC_CHARACTERS=''.,''') AS c0, TO_CHAR(c1, 'TM9', 'NLS_NUMERIC_CHARACTERS=''.,''') AS c1, TO_CHAR(c2, 'TM9', 'NLS_NUMERIC_CHARACTERS=''.,''') AS c2, TO_CHAR(c3, 'TM9', 'NLS_NUMERIC_CHARACTERS=''.,''') AS c3, TO_CHAR(c4, 'TM9', 'NLS_NUMERIC_CHARACTERS=''.,''') AS c4, c5 AS c5, c6 AS c6, c7 AS c7, REPLACE(TO_CHAR(c8, 'YYYY-MM-DD HH24:MI:SS AD', 'NLS_DATE_LANGUAGE=AMERICAN'), ' AD') AS c8, REPLACE(TO_CHAR(c9, 'YYYY-MM-DD HH24:MI:SS.FF9 AD', 'NLS_DATE_LANGUAGE=AMERICAN'), ' AD') AS c9, REPLACE(TO_CHAR(SYS_EXTRACT_UTC(c10), 'YYYY-MM-DD HH24:MI:SS.FF9"+00" AD', 'NLS_DATE_LANGUAGE=AMERICAN'), ' AD') AS c10, REPLACE(TO_CHAR(SYS_EXTRACT_UTC(c11), 'YYYY-MM-DD HH24:MI:SS.FF9"+00" AD', 'NLS_DATE_LANGUAGE=AMERICAN'), ' AD') AS c11, c12 AS c12, c13 AS c13, c14 AS c14, c15 AS c15, c16 AS c16, c17 AS c17 FROM consilium_rows WHERE ROWNUM <= 1001

-- two columns, as they are read
WITH consilium_rows (c0, c1, c2, c3) AS (
SELECT "HIS"."VISITS".*, "ID" AS "consilium unique id" FROM "HIS"."VISITS"
) SELECT TO_CHAR(c3, 'TM9', 'NLS_NUMERIC_CHARACTERS=''.,''') AS c3, TO_CHAR(c0, 'TM9', 'NLS_NUMERIC_CHARACTERS=''.,''') AS c0 FROM consilium_rows WHERE ROWNUM <= 1001

-- no column, as it is read
WITH consilium_rows (c0, c1, c2, c3) AS (
SELECT "HIS"."VISITS".*, "ID" AS "consilium unique id" FROM "HIS"."VISITS"
) SELECT 1 FROM consilium_rows WHERE ROWNUM <= 1001
